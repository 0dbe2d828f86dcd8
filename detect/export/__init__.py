"""Detectors for others: a state dict for torchvision, graphs for torch.export and ONNX."""
