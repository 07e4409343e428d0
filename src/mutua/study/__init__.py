"""The study: policies compared over seeds and backbones, all else equal, with figures, intervals and one report."""
