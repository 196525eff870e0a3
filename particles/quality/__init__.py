"""How good synthetic rows are: fidelity, copies, utility. The face is ``evaluate.evaluate``."""
