"""Prints the `.env` of docker-compose.yml: fresh random keys, of which the service gets the digests only."""

import hashlib
import json
import secrets


def environment() -> dict[str, str]:
    """Return new keys for Prometheus, the load generator and an administrator, and the digests of them."""
    scopes = {
        "METRICS_KEY": ["metrics"],
        "LOADTEST_KEY": ["infer", "outcomes", "metrics"],
        "ADMIN_KEY": ["infer", "outcomes", "metrics", "admin"],
    }
    keys = {name: secrets.token_urlsafe(32) for name in scopes}
    digests = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": scopes[name]}
        for name, key in keys.items()
    ]
    compact = json.dumps(digests, separators=(",", ":"))
    return {**keys, "GRAFANA_PASSWORD": secrets.token_urlsafe(24), "SLIMCTR_API_KEYS": f"'{compact}'"}


if __name__ == "__main__":
    for name, value in environment().items():
        print(f"{name}={value}")
