"""What runs on a device that is elsewhere; needs only Python 3.8, onnxruntime and numpy there.

`measure` is the script of a bundle, and has the interleaved rounds of all measurements; `state`
tells what a machine is and what happens on it; `serve` answers requests over a pipe. Nothing of
hwnas is installed on the device: `hwnas.latency_tables.remote` sends the text of these modules.
"""
