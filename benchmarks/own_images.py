"""Folders of real images, as a user would have them: what docs/own-images.md is measured on.

    python benchmarks/own_images.py fashion /usr/share/datasets/fashion-mnist images --seed 1
    python benchmarks/own_images.py clipart /usr/share/openclipart/png images --seed 1

fashion: Fashion-MNIST as PNG files of 28 x 28 pixels, long-tailed by gamma 100: 1,500 labelled images of the largest
class, twice as many unlabelled ones, 200 test images of each class. (Debian's dataset-fashion-mnist; MIT.)
clipart: Debian's openclipart-png, drawings in public domain by volunteers, whose folders are the classes: those with
130 drawings or more. Of each 30 are test images, a third of the others is labelled, cut to a long tail by gamma 20, and
the rest is unlabelled.
The seed chooses which image is where.
"""
