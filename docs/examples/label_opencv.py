"""Label a photo with OpenCV 5 alone: python label_opencv.py net.onnx photo.jpg out.png."""

import sys

import cv2
import numpy as np

model, photo, out = sys.argv[1:]
net = cv2.dnn.readNetFromONNX(model)
image = np.asarray(cv2.imread(photo))[..., ::-1].copy()  # RGB, uint8: height x width x 3

net.setInput(image[None], "image")
labels = np.asarray(net.forward("labels")).astype(np.uint8).reshape(image.shape[:2])

cv2.imwrite(out, labels)  # class ids as grey levels
for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
    print(f"class {label}: {count / labels.size:.1%}")
