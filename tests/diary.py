"""What a suite keeps its state in, in tests that kill it."""

import numpy as np


class Diary:
    """Keeps everything, and is killed after some segments."""

    def __init__(self, kept=None, lives=10**9):
        self.kept, self.lives = kept, lives

    def load(self):
        return self.kept

    def keep(self, arrays):
        self.kept = {name: np.array(value) for name, value in arrays().items()}
        self.lives -= 1
        if self.lives == 0:
            raise KeyboardInterrupt
