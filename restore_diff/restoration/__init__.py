"""A degraded image goes in, a restored image comes out."""
