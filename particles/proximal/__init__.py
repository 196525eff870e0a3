"""The W1 ⊕ W2 proximal generative flow (arXiv 2407.11901): trained, by Hopf and Lax, or by its exact plan."""
