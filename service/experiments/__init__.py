"""Assignment, shadow scoring, exposures, outcomes and estimates."""
