"""The usual Keras notebook; the environment variable KERAS_BACKEND selects its backend."""

import importlib
import math

import keras
import numpy as np
from keras import layers
from protocol import Data, Peer, serve


def create(data: Data, seed: int) -> Peer:
    """Builds and compiles the network."""
    keras.utils.set_random_seed(seed)
    splits = {
        name: (images.astype(np.float32) / 255, labels) for name, (images, labels) in data.items()
    }
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    def epoch():
        history = model.fit(
            *splits["train"],
            batch_size=128,
            validation_data=splits["validation"],
            epochs=1,
            verbose=0,
        )
        steps = math.ceil(len(splits["train"][1]) / 128)
        return {"steps": steps, "val_accuracy": history.history["val_accuracy"][-1]}

    def test():
        return model.evaluate(*splits["test"], batch_size=128, verbose=0)[1]

    return epoch, test


if __name__ == "__main__":
    serve(create, keras, importlib.import_module(keras.backend.backend()))
