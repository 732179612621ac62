"""ONNX graphs on their way to a backend: cut to the taps that are wanted, in the types that a runtime takes."""
