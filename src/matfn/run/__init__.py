"""Run: arguments are checked, a plan is resolved for the machine at hand, and the plan is executed."""
