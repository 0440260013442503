"""Load tests: locust users, profiles and the report."""
