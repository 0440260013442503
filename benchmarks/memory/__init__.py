"""Memory and loading of the service, measured on artifacts of one and ten million ids."""
