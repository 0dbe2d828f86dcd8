"""RetinaNet-FPN: the network, its anchors, losses and detections."""
