"""From detections to metrics, by the rules of VOC and COCO."""
