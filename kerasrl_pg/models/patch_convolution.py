"""A convolution for small images in compiled loops."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class PatchConv2D(keras.layers.Conv2D):
    """Keras' `Conv2D`, computed as one product of matrices: its patches times its kernel.

    For images of ten by ten pixels or so in programs that XLA compiles for a CPU: gradients of convolutions are slow
    there, above all in a loop, those of products are not. Weights, settings and results are those of `Conv2D`. Patches
    of large images would take too much memory.

    Args:
        filters: channels of the output.
        kernel_size: height and width of a patch.
        **arguments: the others of `Conv2D`.

    Raises:
        ValueError: channels first, groups, dilation, or an image whose size is not known in advance.

    Example:
        >>> PatchConv2D(16, 3, padding="same")(keras.ops.zeros((2, 9, 10, 3))).shape
        TensorShape([2, 9, 10, 16])
    """

    def __init__(self, filters: int, kernel_size: int | tuple[int, int], **arguments):
        super().__init__(filters, kernel_size, **arguments)
        if self.data_format != "channels_last" or self.groups != 1 or self.dilation_rate != (1, 1):
            raise ValueError(
                'PatchConv2D knows data_format="channels_last", groups=1 and dilation_rate=1 only, '
                f"got {self.data_format!r}, {self.groups} and {self.dilation_rate}"
            )

    def build(self, input_shape):
        """Check the shape, and make kernel and bias as `Conv2D` does."""
        if None in input_shape[1:]:
            raise ValueError(f"PatchConv2D needs images of a known size, got the shape {tuple(input_shape)}")
        super().build(input_shape)

    def call(self, inputs):
        """`[B, height, width, channels] -> [B, height', width', filters]`."""
        height, width = self.compute_output_shape(inputs.shape)[1:3]
        rows, columns = self.kernel_size
        down, right = self.strides
        if self.padding == "same":
            border = (_same(*sizes) for sizes in zip(inputs.shape[1:3], self.kernel_size, self.strides, strict=True))
            inputs = keras.ops.pad(inputs, ((0, 0), *border, (0, 0)))
        patches = keras.ops.concatenate(
            [
                inputs[:, row : row + down * (height - 1) + 1 : down, column : column + right * (width - 1) + 1 : right]
                for row in range(rows)
                for column in range(columns)
            ],
            axis=-1,
        )  # [B, height, width, rows · columns · channels]
        kernel = keras.ops.reshape(self.kernel, (-1, self.filters))
        outputs = keras.ops.matmul(keras.ops.reshape(patches, (-1, kernel.shape[0])), kernel)
        outputs = keras.ops.reshape(outputs, (-1, height, width, self.filters))
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow has them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
