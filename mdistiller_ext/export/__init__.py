"""Export the student of a run: as ONNX, a program of torch.export, a state_dict or safetensors.

`exporting.export_student` is the function behind the command ``python -m mdistiller_ext.export``. Importing this package
imports neither torch nor any package of the extra ``[export]``.
"""
