"""Options of a Lightning trainer that trains on the CPU and neither prints nor logs."""

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
