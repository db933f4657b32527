"""Fine-tunes Qwen3-VL to grade Chinese essays from page images."""
