"""RATIO (Augustin, Meinke, Hein 2020, arXiv:2003.09461): adversarial robustness in and out of distribution."""
