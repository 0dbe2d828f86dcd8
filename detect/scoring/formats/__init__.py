"""Reading and writing detections in the formats that detectors write."""
