"""The commands `synceventsd log ...`: what an operator looks at and asks for while the daemon runs, or does not."""
