//! A product with a matrix of weights, by the fastest way candle has for the type
//! in which the file stores it.
//!
//! candle has vector code for `Q4_0`, `Q8_0` and the K types, but none for `Q4_1`,
//! whose products take ten times as long. A block of `Q4_1` is `d·q + m` with `q`
//! from 0 to 15, and a block of `Q4_0` is `d·(q − 8)`. So, exactly,
//!
//! ```text
//! Σ (d·q + m)·x  =  Σ d·(q − 8)·x  +  (m + 8·d)·Σ x
//! ```
//!
//! with a product of type `Q4_0` over the same `d` and `q`, and one in float32 of an
//! offset for each block of 32 weights with the sums of 32 activations. The sums are
//! of activations before they are rounded, which makes it more exact, too.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, Module, Result, Tensor};

/// Weights in a block of `Q4_0` and `Q4_1`.
const BLOCK: usize = 32;
/// Bytes of a block of `Q4_1`: `d` and `m` in float16, and two weights a byte.
const Q4_1_BYTES: usize = 20;

/// How the weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the file has them; activations are rounded to 8 bits for each product.
    Stored,
    /// Widened to float32: four to eight times the memory, no rounding. The
    /// reference against which the other is judged.
    Full,
}

/// `x · Wᵀ` for one matrix.
pub struct Product {
    weights: QMatMul,
    /// `[columns / 32, rows]`, for weights that were `Q4_1`.
    offsets: Option<Tensor>,
}

impl Product {
    /// Takes a matrix of `[rows, columns]`.
    pub fn new(matrix: QTensor, precision: Precision) -> Result<Self> {
        if precision == Precision::Stored && matrix.dtype() == GgmlDType::Q4_1 {
            return Self::from_q4_1(&matrix);
        }
        Self::shared(Arc::new(matrix), precision)
    }

    /// Takes a matrix that also serves elsewhere, and so stays as it is.
    pub fn shared(matrix: Arc<QTensor>, precision: Precision) -> Result<Self> {
        let weights = match precision {
            Precision::Stored => QMatMul::from_arc(matrix)?,
            Precision::Full => QMatMul::Tensor(matrix.dequantize(&matrix.device())?),
        };
        Ok(Self { weights, offsets: None })
    }

    fn from_q4_1(matrix: &QTensor) -> Result<Self> {
        let (rows, columns) = matrix.shape().dims2()?;
        let device = matrix.device();
        let data = matrix.data()?;
        let mut centred = Vec::with_capacity(data.len());
        let mut offsets = Vec::with_capacity(data.len() / Q4_1_BYTES);
        for block in data.chunks_exact(Q4_1_BYTES) {
            let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
            centred.extend_from_slice(&block[..2]);
            centred.extend_from_slice(&block[4..]);
            offsets.push(m + 8.0 * d);
        }
        drop(data);
        let storage = QStorage::from_data(Cow::Owned(centred), &device, GgmlDType::Q4_0)?;
        let weights = QMatMul::from_arc(Arc::new(QTensor::new(storage, (rows, columns))?))?;
        let offsets = Tensor::from_vec(offsets, (rows, columns / BLOCK), &device)?;
        Ok(Self { weights, offsets: Some(offsets.t()?.contiguous()?) })
    }

    /// `[n, columns]` → `[n, rows]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weights.forward(x)?;
        let Some(offsets) = &self.offsets else { return Ok(y) };
        let (n, columns) = x.dims2()?;
        let sums = x.reshape((n, columns / BLOCK, BLOCK))?.sum(D::Minus1)?;
        y + sums.matmul(offsets)?
    }
}

/// The value of a float16.
fn half(low: u8, high: u8) -> f32 {
    let bits = u16::from_le_bytes([low, high]);
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f32::from(bits & 0x3FF));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        0x1F => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn float16_has_its_value() {
        let cases =
            [(0x0000, 0.0), (0x3C00, 1.0), (0xC000, -2.0), (0x7BFF, 65504.0), (0x0001, 5.960_464_5e-8)];
        for (bits, expected) in cases {
            let [low, high] = u16::to_le_bytes(bits);
            assert_eq!(half(low, high), expected);
        }
        assert!(half(0, 0x7C).is_nan());
    }

    #[test]
    fn split_products_are_the_product() {
        let (rows, columns, n) = (96, 128, 3);
        let wave = |count: usize, step: f32, shift: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin() + shift).collect()
        };
        let matrix =
            Tensor::from_vec(wave(rows * columns, 0.37, 0.4), (rows, columns), &Device::Cpu).unwrap();
        let matrix = || QTensor::quantize(&matrix, GgmlDType::Q4_1).unwrap();
        let x = Tensor::from_vec(wave(n * columns, 0.11, -0.2), (n, columns), &Device::Cpu).unwrap();
        let exact = Product::new(matrix(), Precision::Full).unwrap().forward(&x).unwrap();
        let split = Product::new(matrix(), Precision::Stored).unwrap();
        assert!(split.offsets.is_some());
        let split = split.forward(&x).unwrap();
        let whole = Product::shared(Arc::new(matrix()), Precision::Stored).unwrap().forward(&x).unwrap();
        let error = |y: &Tensor| -> f32 {
            let squares = (y - &exact).unwrap().sqr().unwrap();
            squares.mean_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
        };
        assert!(error(&split) < 0.05, "{}", error(&split));
        assert!(error(&split) <= error(&whole), "{} {}", error(&split), error(&whole));
    }
}
