"""The ONNX operators that TensorRT's parser takes and the types of their data, by the table of its project.

Source: "Supported ONNX Operators" of TensorRT 10.15 (onnx/onnx-tensorrt, docs/operators.md). Left out are GridSample,
which is compiled wrongly, and control flow, random numbers and operators whose output size depends on values, which no
graph of ours needs.
"""

from __future__ import annotations

_FLOATS = frozenset({"float", "float16", "bfloat16"})
_NUMBERS = _FLOATS | {"int32", "int64"}
_ALL = _NUMBERS | {"bool"}

_ROWS = {
    "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh CumSum "
    "Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid "
    "HardSwish Hardmax InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool "
    "MatMul MaxPool MeanVarianceNormalization PRelu QuantizeLinear Reciprocal Resize RMSNormalization Round Selu "
    "Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu": _FLOATS,
    "Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod "
    "Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK": _NUMBERS,
    "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity Reshape Shape Size "
    "Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where": _ALL,
    "Cast CastLike": _ALL | {"uint8"},
    "And Not Or Xor": frozenset({"bool"}),
    "Mish": frozenset({"float", "float16"}),
    "DequantizeLinear": frozenset({"int8"}),
}

OPERATORS = {name: types for names, types in _ROWS.items() for name in names.split()}
"""Operator -> the types of its data, under ONNX's names in lower case."""
ONLY_AT_ENDS = "uint8"
"""A type that inputs and outputs of the graph alone may have."""
