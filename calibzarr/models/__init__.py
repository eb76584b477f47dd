"""Diffusion transformers behind one seam, :class:`calibzarr.models.base.Model`."""
