"""Figures of sweeps and of training runs, readable without the paper."""

from .curves import loss_curves
from .data import relative_loss
from .heatmap import heatmaps
from .style import save

__all__ = ["heatmaps", "loss_curves", "relative_loss", "save"]
