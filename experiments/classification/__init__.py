"""Train classifiers against an adversary, and attack classifiers: yours, ours or published ones."""
