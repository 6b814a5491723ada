"""Images as volumes and pictures: geometry, planes, and a phantom whose truth is known. No I/O."""
