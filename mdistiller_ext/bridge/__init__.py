"""A bridge to mdistiller: methods of a checkout here (``theirs.py``), these methods there (``ours.py``), and both compared."""
