"""The authors' way in Keras: VGG16 frozen under Model1, every patch through it in every epoch, scored one by one.

Written from the paper (Yu et al. 2020) and its recipe; the weights are random, which costs the same time. It runs in a
process of its own, where TensorFlow is imported.
"""

import os
from functools import cache
from typing import Any

import numpy as np

SIZE_PX, BATCH, PATCHES_OF_A_ROI = 72, 32, 25


@cache
def _keras() -> tuple[Any, Any, Any]:
    """The compiled model, its stream of augmented batches, and their source: 256 patches and labels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    keras = tf.keras
    layers = keras.layers
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE_PX, SIZE_PX, 3))
    base.trainable = False
    pools = [base.get_layer(f"block{block}_pool").output for block in range(1, 6)]
    fused = layers.Concatenate()([layers.GlobalAveragePooling2D()(pool) for pool in pools])
    fused = layers.BatchNormalization()(fused)
    for _ in range(2):
        fused = layers.Dense(1024, activation="relu")(fused)
    model = keras.Model(base.input, layers.Dense(2, activation="softmax")(fused))
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "categorical_crossentropy")
    grey = np.random.default_rng(0).integers(0, 256, (256, SIZE_PX, SIZE_PX, 1))
    patches = grey.repeat(3, axis=3).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)[np.arange(len(patches)) % 2]
    augmented = keras.preprocessing.image.ImageDataGenerator(
        samplewise_center=True, rotation_range=180, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest"
    )
    return model, augmented.flow(patches, labels, batch_size=BATCH), patches


def train(n_batches: int) -> int:
    """Train on some batches; how many patches they held."""
    model, stream, _ = _keras()
    model.fit(stream, steps_per_epoch=n_batches, verbose=0)
    return n_batches * BATCH


def score(n_rois: int) -> int:
    """Score all patches of some ROIs, one patch at a time."""
    model, _, patches = _keras()
    for _ in range(n_rois):
        model.predict(patches[:PATCHES_OF_A_ROI], batch_size=1, verbose=0)
    return n_rois
