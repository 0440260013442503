"""What wraps a request: the connection it comes on."""
