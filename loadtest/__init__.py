"""The load generator: traffic profiles as data, locust users, and a report with an exit code."""
