"""The whole service over loopback, beside plain services and model servers that serve the same float model."""
