//! What a piece of a device is worth: the dual prices of packing the demanded
//! pieces into as few devices as possible (fractional cutting stock, by column
//! generation; Gilmore and Gomory, *A linear programming approach to the
//! cutting-stock problem*, 1961).

/// Parts of a device that pieces are measured in.
pub(super) const PARTS: usize = 100;
/// Most exchanges of the simplex method: far more than 99 sizes ever need.
const MAX_PIVOTS: usize = 5_000;
const EPSILON: f64 = 1e-9;

/// Value of each gap of 0 to [`PARTS`] parts, a whole device being worth 1: the
/// best packing of pieces at their dual prices. `demand[s]` is how many pieces
/// of `s` parts are wanted; those of 0 and of a whole device do not count.
/// Superadditive: two gaps are worth no more than one of their sum.
pub(super) fn gap_values(demand: &[f64; PARTS + 1]) -> [f64; PARTS + 1] {
    let sizes: Vec<usize> = (1..PARTS).filter(|&size| demand[size] > 0.0).collect();
    let wanted: Vec<f64> = sizes.iter().map(|&size| demand[size]).collect();
    let prices = duals(&sizes, &wanted);
    let (mut values, _) = best_packing(&sizes, &prices);
    // Above 1 only by rounding.
    for value in &mut values {
        *value = value.clamp(0.0, 1.0);
    }
    values[PARTS] = 1.0;
    values
}

/// Least devices to cover the demand: the dual price of each size.
fn duals(sizes: &[usize], wanted: &[f64]) -> Vec<f64> {
    let rows = sizes.len();
    // Begins with one pattern for each size, of that size only.
    let mut inverse = vec![vec![0.0; rows]; rows];
    for (row, &size) in sizes.iter().enumerate() {
        inverse[row][row] = 1.0 / parts(PARTS / size);
    }
    let mut used: Vec<f64> = (0..rows).map(|row| inverse[row][row] * wanted[row]).collect();
    let mut costs = vec![1.0; rows];
    let mut prices = prices_of(&inverse, &costs);
    for _ in 0..MAX_PIVOTS {
        let Some((column, cost)) = entering(sizes, &prices) else { break };
        let change: Vec<f64> =
            inverse.iter().map(|row| row.iter().zip(&column).map(|(a, b)| a * b).sum()).collect();
        let Some(leaving) = leaving(&used, &change) else { break };
        pivot(&mut inverse, &mut used, leaving, &change);
        costs[leaving] = cost;
        prices = prices_of(&inverse, &costs);
    }
    for price in &mut prices {
        *price = price.max(0.0);
    }
    prices
}

fn prices_of(inverse: &[Vec<f64>], costs: &[f64]) -> Vec<f64> {
    (0..costs.len()).map(|j| inverse.iter().zip(costs).map(|(row, cost)| cost * row[j]).sum()).collect()
}

/// A column that lowers the number of devices, and its cost: a surplus of a
/// size with a negative price, or the most valuable pattern.
fn entering(sizes: &[usize], prices: &[f64]) -> Option<(Vec<f64>, f64)> {
    let cheapest = (0..prices.len()).min_by(|&a, &b| prices[a].total_cmp(&prices[b]))?;
    if prices[cheapest] < -EPSILON {
        let mut column = vec![0.0; sizes.len()];
        column[cheapest] = -1.0;
        return Some((column, 0.0));
    }
    let (values, last) = best_packing(sizes, prices);
    if values[PARTS] <= 1.0 + EPSILON {
        return None;
    }
    let mut column = vec![0.0; sizes.len()];
    let mut gap = PARTS;
    while gap > 0 {
        match last[gap] {
            Some(index) => {
                column[index] += 1.0;
                gap -= sizes[index];
            }
            None => gap -= 1,
        }
    }
    Some((column, 1.0))
}

/// The best packing of each gap, and the piece that was put into it last.
fn best_packing(sizes: &[usize], prices: &[f64]) -> ([f64; PARTS + 1], [Option<usize>; PARTS + 1]) {
    let mut values = [0.0; PARTS + 1];
    let mut last = [None; PARTS + 1];
    for gap in 1..=PARTS {
        values[gap] = values[gap - 1];
        for (index, (&size, &price)) in sizes.iter().zip(prices).enumerate() {
            if size <= gap && values[gap - size] + price > values[gap] + 1e-15 {
                values[gap] = values[gap - size] + price;
                last[gap] = Some(index);
            }
        }
    }
    (values, last)
}

/// Ratio test; the first of equals leaves.
fn leaving(used: &[f64], change: &[f64]) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (row, (have, change)) in used.iter().zip(change).enumerate() {
        if *change > EPSILON {
            let ratio = have / change;
            if best.is_none_or(|(least, _)| ratio < least - 1e-12) {
                best = Some((ratio, row));
            }
        }
    }
    best.map(|(_, row)| row)
}

fn pivot(inverse: &mut [Vec<f64>], used: &mut [f64], leaving: usize, change: &[f64]) {
    let by = change[leaving];
    for value in &mut inverse[leaving] {
        *value /= by;
    }
    used[leaving] /= by;
    let (pivot, amount) = (inverse[leaving].clone(), used[leaving]);
    for (row, &factor) in change.iter().enumerate() {
        if row != leaving && factor != 0.0 {
            for (value, by) in inverse[row].iter_mut().zip(&pivot) {
                *value -= factor * by;
            }
            used[row] = (used[row] - factor * amount).max(0.0);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
fn parts(n: usize) -> f64 {
    n as f64
}
