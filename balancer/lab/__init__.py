"""Throw-away machines in network namespaces: clients, balancers, backends, and traffic between them."""
