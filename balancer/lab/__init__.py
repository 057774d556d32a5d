"""Throw-away machines in network namespaces: clients, balancers, backends, and bounded traffic between them."""
