"""How blocks of vectors become one profile: moments, and the composition fitted to them."""
