"""Devices that are elsewhere: named in `devices.toml`, reached by SSH or adb, measured in the loop.

`inventory` reads the names, `transport` builds the command lines that reach a device, `connection`
asks the process of `hwnas.latency_tables.on_device` there, and `runtime` makes a `Runtime` of it.
"""
