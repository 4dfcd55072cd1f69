"""Analyses of finished runs: what the papers claim about gradients, landscapes and teachers, measured and drawn.

Each module whose function is decorated by ``register_analysis`` is an analysis: a command ``python -m mdistiller_ext.analyze
gsnr RUN...``, and a function for notebooks::

    from mdistiller_ext.analyze.gsnr import gsnr
    analysis = gsnr(["output/claims"])
    analysis.rows  # the numbers
    analysis.pictures[0].figure  # a matplotlib figure
"""
