"""NVIDIA Triton: asked, or run here, and waited for while it does not answer."""
