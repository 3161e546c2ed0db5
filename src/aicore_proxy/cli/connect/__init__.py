"""``aicore-proxy connect``: settings of coding tools and SDKs for this proxy."""
