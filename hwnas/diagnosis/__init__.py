"""What theory says of a trained network: Lipschitz bounds, curvature, convergence, generalisation.

Each function names its paper, the unit of what it returns and what it costs.
"""
