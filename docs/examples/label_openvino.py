"""Label a photo with OpenVINO alone: python label_openvino.py net.xml photo.jpg out.png."""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

model, photo, out = sys.argv[1:]
core = openvino.Core()
graph = core.read_model(model)  # its weights lie beside it, in net.bin
about = json.loads(graph.get_rt_info(["fullconv"]).value)
(name, head), *_ = about["heads"].items()

with Image.open(photo) as opened:
    image = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
net = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # not bfloat16
labels = net([image[None]])[0]  # uint8: 1 x height x width

picture = Image.fromarray(labels[0]).convert("P")
picture.putpalette(np.array(head["palette"], np.uint8).tobytes())
picture.save(out)
for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
    print(f"{head['classes'][label]}: {count / labels.size:.1%}")
