"""Calibration of latency tables: selecting networks to measure, fitting, and auditing."""
