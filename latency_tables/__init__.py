"""Latency tables: measuring operators on a device and keeping the results as JSON."""

from hwnas.latency_tables.table import DeviceProfile, LatencyTable, Measurement, OpSpec

__all__ = ["DeviceProfile", "LatencyTable", "Measurement", "OpSpec"]
