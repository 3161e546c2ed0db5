"""``aicore-proxy doctor``: what works between this machine and SAP's models, what does not, and what to do about it."""
