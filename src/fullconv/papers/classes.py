"""The classes of the paper's datasets, in the order of their label ids."""

from __future__ import annotations

VOC = tuple(
    """
    background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
    motorbike person pottedplant sheep sofa train tvmonitor
    """.split()
)

# LabelNames of Liu, Yuen and Torralba's SIFT Flow data, alphabetical; and its geometric labels.
SIFT_FLOW = tuple(
    """
    awning balcony bird boat bridge building bus car cow crosswalk desert door fence field grass
    moon mountain person plant pole river road rock sand sea sidewalk sign sky staircase
    streetlight sun tree window
    """.split()
)
GEOMETRY = ("sky", "horizontal", "vertical")
ABSENT_FROM_SIFT_FLOW_TEST = ("cow", "desert", "moon")

# Gupta, Arbelaez and Malik's 40 classes of NYUDv2, their spelling.
NYUD = tuple(
    """
    wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,
    shelves,curtain,dresser,pillow,mirror,floor mat,clothes,ceiling,books,refridgerator,television,
    paper,towel,shower curtain,box,whiteboard,person,night stand,toilet,sink,lamp,bathtub,bag,
    otherstructure,otherfurniture,otherprop
    """.replace("\n", "")
    .replace("    ", "")
    .split(",")
)

# 59_labels.txt of PASCAL-Context (VOC's classes, then the others), three by the names that they
# have among the 459: table, cloth and bedclothes. What is not labelled is background.
PASCAL_CONTEXT = tuple(
    """
    background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike
    person pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth
    computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain
    platform sign plate road rock shelves sidewalk sky snow bedclothes track tree truck wall water
    window wood
    """.split()
)
