"""Vision-and-language navigation: agents that follow instructions, and a speaker that writes them."""
