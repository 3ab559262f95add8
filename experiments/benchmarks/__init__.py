"""Speed: attacks, certificates and training steps, beside their peers in PyTorch."""
