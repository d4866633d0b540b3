"""Label a photo with ONNX Runtime alone: python label_onnxruntime.py net.onnx photo.jpg out.png."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["fullconv"])
(name, head), *_ = about["heads"].items()

with Image.open(photo) as opened:
    image = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
(labels, *_) = session.run(None, {"image": image[None]})  # uint8: 1 x height x width

picture = Image.fromarray(labels[0]).convert("P")
picture.putpalette(np.array(head["palette"], np.uint8).tobytes())
picture.save(out)
for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
    print(f"{head['classes'][label]}: {count / labels.size:.1%}")
