"""A load generator for any compatible endpoint, and the comparison of this proxy with others on one stub upstream.

Knows nothing of the proxy: it starts it as a child process, as it starts the others.
"""
