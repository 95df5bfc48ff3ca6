"""What can be taken away from a trained network: channels and blocks, their cost and their worth.

The structure comes from Torch-Pruning, which `pip install 'hwnas[shrink]'` installs.
"""
