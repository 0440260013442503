"""The frontier: how small a run can be made, and what that costs, measured variant by variant in the engine."""
